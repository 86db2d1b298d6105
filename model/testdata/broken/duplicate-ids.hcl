ids "ports" { private = "8000-8999" }
ids "ports" { shared = "3000-3999" }
