# modes beyond the mask are refused
s/ reg->mode >= 32 \|\|\n//
