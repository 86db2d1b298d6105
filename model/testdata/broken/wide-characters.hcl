service "web" {
  type = "process"
  run {
    command = ["日本語", "é", self.hots]
  }
}
