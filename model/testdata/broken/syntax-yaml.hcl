services:
  web:
    type: process
