# selectors are those of the process
s/reg->sel = read_sreg\(ds\);//
