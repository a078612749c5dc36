# a token opens its modes only
s/    if \( !\(s->modes & \(1u << reg->mode\)\) \)\n        return -EPERM;\n//
