# attach that cannot answer leaves no session
s/        unlink_session\(cda, s\);\n        spin_unlock\(&cda->lock\);\n        return -EFAULT;/        spin_unlock(\&cda->lock);\n        return -EFAULT;/
