pub mod embedded;
pub mod lane;
pub mod migrate;
pub mod pool;
pub mod tx;
