# tokens are limited
s/else if \( n < cda->max_tokens \)/else/
