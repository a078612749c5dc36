# chunks in pieces of a page
s/#define CHUNKS_SHIFT      5/#define CHUNKS_SHIFT      6/
