# the list ends with the log
s/if \( unlikely\(found > room\) \)/if ( 0 )/
