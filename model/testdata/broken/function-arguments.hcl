service "web" {
  type = "process"
  run {
    command = ["web", join(","), upper(["a"]), lookup({}, "a"), "${[1]}"]
  }
}
