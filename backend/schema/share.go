package schema

import "encoding/binary"

// Share is the holder of a share of the rule groups. The zero Share stands for a share that
// nobody has held yet, which has no row.
type Share struct {
	Holder   string // instance and incarnation of the ruler; empty: released
	Number   uint64 // increased by every new holder, from 1
	Sequence uint64 // increased by every write of the row, from 1
	// Until is when the lease ends, or when it was released, in Unix milliseconds by the clock
	// of the holder. It is for operators and for the choice of how the next holder starts; no
	// ruler concludes from it that another has stopped.
	Until int64
}

// Encode returns the value of the share's cell. Equal shares have equal values.
func (s *Share) Encode() []byte {
	b := appendText(nil, s.Holder)
	b = binary.BigEndian.AppendUint64(b, s.Number)
	b = binary.BigEndian.AppendUint64(b, s.Sequence)
	return seal(valueShare, 1, appendVarint(b, s.Until))
}

// DecodeShare decodes the value of a share's cell.
func DecodeShare(value []byte) (Share, error) {
	b, err := open(valueShare, 1, "share", value)
	if err != nil {
		return Share{}, err
	}
	r := &reader{b: b}
	s := Share{Holder: r.text("holder"), Number: r.uint64("number"), Sequence: r.uint64("sequence"), Until: r.varint("time")}
	return s, r.end("share")
}
