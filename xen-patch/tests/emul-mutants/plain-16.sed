# a prefix for 16 bits means two bytes
s/size = 2;\n        \+\+p;/++p;/
