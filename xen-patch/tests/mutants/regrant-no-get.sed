# regrant() takes the type reference
s/if \( unlikely\(!get_writable\(pg\)\) \)\n        return false;/(void)pg;/
