# ranges end below 2^47
s/ +reg->pages > \(VA_END - reg->start\) >> PAGE_SHIFT \|\|\n//
