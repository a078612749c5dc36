# a session that ended meanwhile is not used
s/likely\(!s->dead\) \? session_op/1 ? session_op/
