# sync_watched() leaves alone what the guest rewrote
s/if \( unlikely\(!\(l1e & CDA_L1E_WATCH\)\) \)/if ( 0 )/
