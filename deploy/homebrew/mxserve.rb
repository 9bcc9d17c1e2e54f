# For a tap of one's own. SDIST and SHA256 stand for the address and the checksum of a source archive
# (`python -m build --sdist`), HOMEPAGE for the repository's address; nothing is published by that
# name yet. It has not been run by brew.
class Mxserve < Formula
  desc "OpenAI-compatible inference server for Qwen3.6-35B-A3B through MLX"
  homepage "HOMEPAGE"
  url "SDIST"
  sha256 "SHA256"
  license "Apache-2.0"

  depends_on arch: :arm64
  depends_on macos: :sonoma
  depends_on "python@3.13"

  def install
    system Formula["python@3.13"].opt_bin/"python3.13", "-m", "venv", libexec
    pip = libexec/"bin/pip"
    system pip, "install", "--require-hashes", "-r", "requirements.lock"
    system pip, "install", "--no-deps", buildpath
    bin.install_symlink libexec/"bin/mxserve"
  end

  # The same as `mxserve service install`, for those who prefer `brew services`.
  service do
    run [opt_bin/"mxserve", "serve", "--log-file", var/"log/mxserve.log"]
    keep_alive successful_exit: false
    throttle_interval 15
    process_type :interactive
    log_path var/"log/mxserve.log"
    error_log_path var/"log/mxserve.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/mxserve --version")
    assert_match "device", shell_output("#{bin}/mxserve doctor")
  end
end
