package disk

import (
	"hash/crc32"
	"testing"
)

// TestChecksum checks the examples of RFC 3720, appendix B.4, and the check value
// of the catalogue of CRC algorithms.
func TestChecksum(t *testing.T) {
	zeros, ones := make([]byte, 32), make([]byte, 32)
	for i := range ones {
		ones[i] = 0xff
	}
	for _, tt := range []struct {
		data []byte
		want uint32
	}{{zeros, 0x8a9136aa}, {ones, 0x62a8ab43}, {[]byte("123456789"), 0xe3069283}, {nil, 0}} {
		if got := Checksum(tt.data); got != tt.want || crc32.Update(0, Castagnoli(), tt.data) != tt.want {
			t.Errorf("Checksum(%x) = %08x, want %08x", tt.data, got, tt.want)
		}
	}
}
