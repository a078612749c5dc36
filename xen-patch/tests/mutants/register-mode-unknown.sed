# unknown modes are refused
s/reg->mode >= 32 \|\|\n         !\(CDA_MODES & \(1u << reg->mode\)\) \)/reg->mode >= 32 )/
