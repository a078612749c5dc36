# a domain which was not admitted has no gate
s/if \( unlikely\(!ACCESS_ONCE\(curr->domain->arch.cda\)\) \|\|\n/if (/
