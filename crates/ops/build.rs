//! Compiles the kernels of the device path, with the feature `cuda`.

#[cfg(feature = "cuda")]
fn main() -> cudaforge::Result<()> {
    println!("cargo::rerun-if-changed=src/device/kernels.cu");
    let builder = cudaforge::KernelBuilder::new().source_files(["src/device/kernels.cu"]);
    builder.arg("-std=c++17").arg("-O3").build_ptx().map(|_| ())
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
