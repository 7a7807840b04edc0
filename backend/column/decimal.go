package column

import (
	"encoding/binary"
	"math"
)

// powers are the powers of ten for all exponents; a float64 represents each
// exactly.
var powers = [maxExponent + 1]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14}

// maxInteger limits scaled integers: a float64 represents every smaller integer
// exactly.
const maxInteger = 1 << 53

// exception is a run of equal values that scaled integers cannot represent;
// bits are the bits of the value.
type exception struct {
	at, n int
	bits  uint64
}

// scaler converts floats to integers.
type scaler struct {
	exponent   int // of the last series; used for a series of zeros and special values only, which determine none
	ints       []int64
	exceptions []exception
}

// scale converts v to s.ints and s.exceptions, and returns the exponent. At an
// exception, ints has the integer of the previous value.
func (s *scaler) scale(v []float64) int {
	if e, ok := findExponent(v, s.exponent); ok {
		for range 2 {
			s.exponent = e
			s.fill(v, e)
			if len(s.exceptions) <= 2+len(v)/64 {
				return e
			}
			larger := s.largerExponent(v, e)
			if larger == e {
				break
			}
			e = larger
		}
		if len(s.exceptions) <= len(v)/16 {
			return s.exponent
		}
	}
	s.exceptions = s.exceptions[:0]
	for i, f := range v {
		s.ints[i] = int64(math.Float64bits(f))
	}
	return rawBits
}

// findExponent returns the smallest exponent with which nearly all of some
// sampled values are integers.
func findExponent(v []float64, hint int) (e int, ok bool) {
	const some = 32
	n, odd, scaled := min(some, len(v)), 0, 0
	e = -maxExponent
	for i := range n {
		f := v[(i*len(v)+len(v)/2)/n]
		if f == 0 || math.IsNaN(f) || math.IsInf(f, 0) {
			continue
		}
		scaled++
		m, ok := exponentOf(f, e)
		if !ok {
			if odd++; odd > n/8 {
				return 0, false
			}
			continue
		}
		e = max(e, m)
	}
	if scaled == 0 || scaled == odd {
		return max(hint, 0), scaled == 0
	}
	return e, true
}

// exponentOf returns the smallest exponent, at least least, with which f is an
// integer.
func exponentOf(f float64, least int) (int, bool) {
	for e := least; e <= maxExponent; e++ {
		if e < 0 && math.Abs(f) < maxInteger {
			e = 0
		}
		if _, ok := toInteger(f, e); ok {
			return e, true
		}
	}
	return 0, false
}

func toInteger(f float64, e int) (int64, bool) {
	var x float64
	if e >= 0 {
		x = f * powers[e]
	} else {
		x = f / powers[-e]
	}
	if !(math.Abs(x) < maxInteger) {
		return 0, false
	}
	k := int64(math.RoundToEven(x))
	return k, math.Float64bits(fromInteger(k, e)) == math.Float64bits(f)
}

func fromInteger(k int64, e int) float64 {
	if e >= 0 {
		return float64(k) / powers[e]
	}
	return float64(k) * powers[-e]
}

// largerExponent returns the smallest exponent, at least e, with which the
// first exceptions are integers too.
func (s *scaler) largerExponent(v []float64, e int) int {
	for _, x := range s.exceptions[:min(len(s.exceptions), 32)] {
		if m, ok := exponentOf(v[x.at], e); ok {
			e = max(e, m)
		}
	}
	return e
}

func (s *scaler) fill(v []float64, e int) {
	s.exceptions = s.exceptions[:0]
	ints := s.ints[:len(v)]
	last := int64(0)
	switch {
	case e == 0:
		for i, f := range v {
			k := int64(f)
			if math.Float64bits(float64(k)) != math.Float64bits(f) || k >= maxInteger || k <= -maxInteger {
				k = last
				s.except(i, f)
			}
			ints[i], last = k, k
		}
	case e > 0:
		p := powers[e]
		for i, f := range v {
			x := f * p
			k := int64(math.RoundToEven(x))
			if math.Float64bits(float64(k)/p) != math.Float64bits(f) || k >= maxInteger || k <= -maxInteger {
				k = last
				s.except(i, f)
			}
			ints[i], last = k, k
		}
	default:
		for i, f := range v {
			k, ok := toInteger(f, e)
			if !ok {
				k = last
				s.except(i, f)
			}
			ints[i], last = k, k
		}
	}
	s.fillFront()
}

// fillFront sets the integers of exceptions at the start to the first integer
// after them.
func (s *scaler) fillFront() {
	if len(s.exceptions) == 0 || s.exceptions[0].at != 0 {
		return
	}
	end := 0
	for _, x := range s.exceptions {
		if x.at != end {
			break
		}
		end += x.n
	}
	if end < len(s.ints) {
		for i := range end {
			s.ints[i] = s.ints[end]
		}
	}
}

func (s *scaler) except(i int, f float64) {
	b := math.Float64bits(f)
	if n := len(s.exceptions); n > 0 {
		if x := &s.exceptions[n-1]; x.at+x.n == i && x.bits == b {
			x.n++
			return
		}
	}
	s.exceptions = append(s.exceptions, exception{i, 1, b})
}

func appendExceptions(dst []byte, list []exception) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	end := 0
	for _, x := range list {
		dst = binary.AppendUvarint(dst, uint64(x.at-end))
		dst = binary.AppendUvarint(dst, uint64(x.n-1))
		dst = binary.BigEndian.AppendUint64(dst, x.bits)
		end = x.at + x.n
	}
	return dst
}

// divisor returns the greatest common divisor of the differences to the first
// integer, or 1 if all are 0.
func divisor(ints []int64) uint64 {
	g := uint64(0)
	first := ints[0]
	// A few integers are mostly enough to find that the divisor is 1.
	for i := 1; i < len(ints); i += 1 + len(ints)/16 {
		if g = gcd(g, magnitude(ints[i]-first)); g == 1 {
			return 1
		}
	}
	for _, k := range ints {
		d := magnitude(k - first)
		if g != 0 && d&(g-1) == 0 && g&(g-1) == 0 {
			continue
		}
		if g = gcd(g, d); g == 1 {
			return 1
		}
	}
	return max(g, 1)
}

func magnitude(d int64) uint64 {
	if d < 0 {
		return -uint64(d)
	}
	return uint64(d)
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
