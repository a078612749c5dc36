# a domain which was not admitted has no gate
s/         unlikely\(!ACCESS_ONCE\(curr->domain->arch.pv.cda\)\) \|\|\n//
