# sync_touched() forgets watching what the guest made read-only
s/                protected\+\+;\n                if \( h \)\n                    __clear_bit\(slot, h->hot\);/                protected++;/
