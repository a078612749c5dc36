# an operation on one range loses the interrupted one on all
s/return -EAGAIN;\n        abandon_all\(s\);/return -EAGAIN;/
