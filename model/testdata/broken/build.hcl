service "a" {
  type = "process"
  build { command = ["make", "DESTDIR=${out}", "HOST=${self.host}", "${output}"] }
  run { command = ["web"] }
}
