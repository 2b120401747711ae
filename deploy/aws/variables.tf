variable "table" {
  description = "The table of the store's URL: dynamodb://TABLE"
  type        = string
  default     = "lbctl"
}

variable "prefix" {
  description = "The prefix of the store's URL, without its leading slash: dynamodb://TABLE/PREFIX"
  type        = string
  default     = "lbctl"
}

variable "groups" {
  description = "The Auto Scaling groups whose lifecycle actions discover may complete; * stands for any text"
  type        = string
  default     = "*"
}

variable "hsdo_table" {
  description = "HSDO's table, where table-layout is hsdo; it must be there already"
  type        = string
  default     = ""
}

variable "tags" {
  description = "Tags of everything here"
  type        = map(string)
  default     = {}
}
