package remotewrite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unsafe"
)

// Wire types of protobuf.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

var errTruncated = errors.New("protobuf ends in the middle of a field")

// reader reads the fields of one protobuf message.
type reader struct {
	data []byte
	err  error
}

func (r *reader) more() bool { return r.err == nil && len(r.data) > 0 }

func (r *reader) uvarint() uint64 {
	if len(r.data) > 0 && r.data[0] < 0x80 {
		v := uint64(r.data[0])
		r.data = r.data[1:]
		return v
	}
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.fail(errTruncated)
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.data = nil
}

// field reads the number and wire type of the next field.
func (r *reader) field() (num uint64, wire int) {
	key := r.uvarint()
	return key >> 3, int(key & 7)
}

// bytes reads a length-delimited field's content.
func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.data)) {
		r.fail(errTruncated)
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

// double reads a fixed 64-bit field as a float.
func (r *reader) double() float64 {
	if len(r.data) < 8 {
		r.fail(errTruncated)
		return 0
	}
	v := binary.LittleEndian.Uint64(r.data)
	r.data = r.data[8:]
	return math.Float64frombits(v)
}

// skip skips an unknown field; newer senders may add fields.
func (r *reader) skip(wire int) {
	switch wire {
	case wireVarint:
		r.uvarint()
	case wireFixed64:
		r.double()
	case wireBytes:
		r.bytes()
	case wireFixed32:
		if len(r.data) < 4 {
			r.fail(errTruncated)
			return
		}
		r.data = r.data[4:]
	default:
		r.fail(fmt.Errorf("unknown protobuf wire type %d", wire))
	}
}

// expect reports whether a field has the expected wire type, and fails
// otherwise.
func (r *reader) expect(got, want int, what string) bool {
	if got == want {
		return r.err == nil
	}
	r.fail(fmt.Errorf("%s has protobuf wire type %d, want %d", what, got, want))
	return false
}

// text returns the bytes as a string without a copy. The string is valid as
// long as the body.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
