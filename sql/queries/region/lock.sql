-- chain::region_store::get_tree
-- touches: none
-- Nobody else changes the tree until this transaction ends; stores are read and placed meanwhile.
lock table region in share row exclusive mode
