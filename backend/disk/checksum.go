package disk

import "hash/crc32"

// Castagnoli returns the table for all checksums in Pallium's files and rows:
// CRC-32C, as in Cloud Storage (RFC 3720, appendix B.4). Processors have
// instructions for it.
func Castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Checksum returns the CRC-32C of b.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, Castagnoli()) }
