# a guest's own vector 0x84 wins
s/         curr->arch\.pv\.trap_ctxt\[CDA_VECTOR\]\.address \|\|\n//
