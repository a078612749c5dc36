# cda_guest_update() checks the slot
s/ && slot >= c->lo && slot < c->hi \)/ )/
