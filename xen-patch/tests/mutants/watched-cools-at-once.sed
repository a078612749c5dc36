# a clean page stays watched for a while
s/\+\+\*streak >= COLD_AFTER/++*streak >= 1/
