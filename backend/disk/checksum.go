package disk

import "hash/crc32"

// Castagnoli is the polynomial of all checksums in our files and rows: CRC-32C, as
// Cloud Storage has it (RFC 3720, appendix B.4). Processors compute it.
func Castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Checksum is the CRC-32C of b.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, Castagnoli()) }
