# sync_touched() looks at words with watched pages only
s/if \( !bits && !\(h && h->hot\[w\]\) \)/if ( !bits )/
