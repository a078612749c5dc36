# an unfinished detach leaves chunks to be walked anew
s/            if \( !track_take_back\(d, r, j, heir\) \)/            if ( heir ? !track_take_back(d, r, j, heir) : (take_back_chunk(d, chunk_at(r, j), 0), false) )/
