# the token is wiped in the guest
s/    memcpy\(a.token, wiped, sizeof\(wiped\)\);//
