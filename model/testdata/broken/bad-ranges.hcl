ids "ports" {
  private = "8999-8000"
  shared  = "3000"
  nodes   = { m1 = "60000-70000" }
}
ids "uids" { shared = "many" }
