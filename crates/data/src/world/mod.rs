//! stub
/// stub
pub struct World;
impl World {
    /// stub
    pub fn new(_: u64) -> Self { World }
    /// stub
    pub fn story(&self, i: u64) -> Story { Story { text: format!("Once upon a time there was a cat called {i}. The cat liked milk.") } }
}
/// stub
#[derive(serde::Serialize)]
pub struct Story {
    /// stub
    pub text: String }
