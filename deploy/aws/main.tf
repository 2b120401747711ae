# The table of lbctl's store and the rights of those who use it. `lbctl store init` makes the same
# table without Terraform.

terraform {
  required_version = ">= 1.5"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

data "aws_caller_identity" "current" {}

data "aws_region" "current" {}

resource "aws_dynamodb_table" "store" {
  name         = var.table
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "pk"
  range_key    = "sk"

  deletion_protection_enabled = true

  attribute {
    name = "pk"
    type = "S"
  }

  attribute {
    name = "sk"
    type = "S"
  }

  ttl {
    attribute_name = "expires"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled = true
  }

  tags = var.tags
}

# discover, sync-haproxy, register and serve: each reads, commits and keeps leases.
resource "aws_iam_policy" "daemon" {
  name   = "${var.table}-daemon"
  policy = templatefile("${path.module}/policies/daemon.json", local.names)
  tags   = var.tags
}

# status and store list, get, watch, export.
resource "aws_iam_policy" "reader" {
  name   = "${var.table}-reader"
  policy = templatefile("${path.module}/policies/reader.json", local.names)
  tags   = var.tags
}

# store init, where Terraform does not make the table.
resource "aws_iam_policy" "init" {
  name   = "${var.table}-init"
  policy = templatefile("${path.module}/policies/init.json", local.names)
  tags   = var.tags
}

# discover with an asg: source, beside the daemon policy. AWS knows no narrower resource for looking.
resource "aws_iam_policy" "asg" {
  name   = "${var.table}-asg"
  policy = templatefile("${path.module}/policies/asg.json", local.names)
  tags   = var.tags
}

# discover beside HSDO's servers and clients: HSDO's table, in addition to its own.
resource "aws_iam_policy" "hsdo_discover" {
  count  = var.hsdo_table == "" ? 0 : 1
  name   = "${var.table}-hsdo-discover"
  policy = templatefile("${path.module}/policies/hsdo-discover.json", local.names)
  tags   = var.tags
}

# sync-haproxy that follows HSDO's table.
resource "aws_iam_policy" "hsdo_sync" {
  count  = var.hsdo_table == "" ? 0 : 1
  name   = "${var.table}-hsdo-sync"
  policy = templatefile("${path.module}/policies/hsdo-sync.json", local.names)
  tags   = var.tags
}

locals {
  names = {
    account    = data.aws_caller_identity.current.account_id
    groups     = var.groups
    hsdo_table = var.hsdo_table
    prefix     = var.prefix
    region     = data.aws_region.current.name
    table      = var.table
  }
}
