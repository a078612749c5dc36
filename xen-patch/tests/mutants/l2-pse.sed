# superpages are not walked
s/return \(l2e & \(L2E_FLAGS \| _PAGE_PSE\)\) == L2E_FLAGS;/return (l2e \& L2E_FLAGS) == L2E_FLAGS;/
