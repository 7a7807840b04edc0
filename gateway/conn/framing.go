package conn

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// Rejection is why a request is not served: what is wrong with its header.
type Rejection struct {
	Status int
	Reason string // a code out of a fixed set, for metrics and logs
	Text   string // for the client
}

func framingError(text string) *Rejection {
	return &Rejection{Status: http.StatusBadRequest, Reason: "framing", Text: text}
}

// errChunk is the error of a body whose chunks are not as RFC 9112 has them.
var errChunk = errors.New("malformed chunked encoding")

const (
	// maxHeaderLines bounds the lines of a header. Each takes net/http a hundred
	// bytes and more, however short it is.
	maxHeaderLines = 256
	// maxName is how much of a line is held back until its name is known. The names
	// that matter are shorter.
	maxName = 24
	// maxValue bounds a Content-Length with the blanks around it.
	maxValue = 64
	// maxChunkLine bounds the line before a chunk, with its extensions.
	maxChunkLine = 256
	// maxTrailer bounds the trailer of a chunked body. net/http reads no longer ones
	// than its buffer.
	maxTrailer = 2 << 10
)

// framing follows the framing of the requests on a connection, more strictly than
// net/http: it takes only lines that end in CRLF, none that is folded, and one
// Content-Length. What it lets pass, net/http splits into the same requests.
//
// A header passes through it as it comes, line by line. When one is rejected,
// the lines that passed are closed so that they make a request, which is then
// answered with the rejection: net/http alone would answer some of them
// itself, and let the others pass.
type framing struct {
	limit int // bytes of a header

	state framingState
	cr    bool // the last byte was a CR, which is held back
	size  int  // bytes of the header, or of the chunk's line or the trailer
	lines int  // of the header

	first   byte    // of the request line
	version [8]byte // the last bytes of the request line
	held    []byte  // a name as far as it came
	value   []byte  // of Content-Length, as far as it came
	which   header  // that is read

	host, length, chunked bool // were seen in this header

	ext bool // an extension of a chunk began

	left int64 // bytes of the body or chunk
}

type framingState int

const (
	between      framingState = iota // requests
	requestLine                      //
	lineStart                        // of a header line
	inName                           //
	inLongName                       // of no header that matters
	inValue                          //
	inBody                           //
	inChunkSize                      //
	inChunkExt                       // whitespace or extension behind the size
	inChunk                          //
	chunkEnd                         // the line break behind a chunk
	trailerStart                     //
	inTrailer                        //
	failed                           // nothing more passes
)

// header is one that decides where a request ends.
type header int

const (
	otherHeader header = iota
	contentLength
	transferEncoding
	expectHeader
)

// step takes bytes from in, and appends to out what is to be passed on. It stops
// behind a header and behind a body, so that what is wrong with a request is
// known when its turn has come and not before. taken is how many bytes it took.
func (f *framing) step(in, out []byte) (taken int, _ []byte, _ *Rejection, _ error) {
	for i := 0; i < len(in); {
		if n := f.opaque(); n > 0 {
			n = min(n, int64(len(in)-i))
			out = append(out, in[i:i+int(n)]...)
			i += int(n)
			if f.passed(n) {
				return i, out, nil, nil
			}
			continue
		}
		c := in[i]
		i++
		if f.state >= inChunkSize {
			done, err := f.chunkByte(c)
			if err != nil {
				f.state = failed
				return i, out, nil, err
			}
			out = append(out, c)
			if done {
				return i, out, nil, nil
			}
			continue
		}
		var done bool
		var rejection *Rejection
		out, done, rejection = f.headerByte(c, out)
		if rejection != nil {
			return i, f.close(out), rejection, nil
		}
		if done {
			return i, out, nil, nil
		}
	}
	return len(in), out, nil, nil
}

// opaque is how many bytes pass without being looked at.
func (f *framing) opaque() int64 {
	if f.state == inBody || f.state == inChunk {
		return f.left
	}
	return 0
}

// passed notes that n opaque bytes went by, and reports whether the body ended.
func (f *framing) passed(n int64) bool {
	f.left -= n
	if f.left > 0 {
		return false
	}
	if f.state == inChunk {
		f.state = chunkEnd
		return false
	}
	f.state = between
	return true
}

// headerByte takes one byte of a header; done is set at its end.
func (f *framing) headerByte(c byte, out []byte) (_ []byte, done bool, _ *Rejection) {
	f.size++
	if f.size > f.limit {
		return out, false, f.tooLong()
	}
	if f.cr != (c == '\n') {
		return out, false, framingError("lines of a header must end in CRLF")
	}
	switch c {
	case '\r':
		f.cr = true
		return out, false, nil
	case '\n':
		f.cr = false
		return f.endLine(out)
	}
	switch f.state {
	case between:
		f.state, f.first = requestLine, c
		fallthrough
	case requestLine:
		copy(f.version[:], f.version[1:])
		f.version[len(f.version)-1] = c
	case lineStart:
		if rejection := f.beginLine(c); rejection != nil {
			return out, false, rejection
		}
		fallthrough
	case inName:
		return f.nameByte(c, out)
	case inLongName:
		if c == ':' {
			f.state, f.which = inValue, otherHeader
		}
	case inValue:
		if f.which == contentLength {
			if len(f.value) == maxValue {
				return out, false, framingError("Content-Length is not a number")
			}
			f.value = append(f.value, c)
			return out, false, nil
		}
	}
	return append(out, c), false, nil
}

// beginLine begins a header line with its first byte.
func (f *framing) beginLine(c byte) *Rejection {
	if c == ' ' || c == '\t' {
		return framingError("header lines must not be folded")
	}
	if f.lines++; f.lines > maxHeaderLines {
		return f.tooLong()
	}
	f.state = inName
	return nil
}

// nameByte holds a name back until it is known.
func (f *framing) nameByte(c byte, out []byte) ([]byte, bool, *Rejection) {
	if c != ':' {
		f.held = append(f.held, c)
		if len(f.held) > maxName {
			out, f.held, f.state = append(out, f.held...), f.held[:0], inLongName
		}
		return out, false, nil
	}
	f.which, f.value = f.named(), f.value[:0]
	switch f.which {
	case contentLength:
		if f.length {
			return out, false, framingError("Content-Length must not be repeated")
		}
		f.length = true
	case transferEncoding:
		if f.old() {
			return out, false, framingError("HTTP/1.0 has no Transfer-Encoding: send Content-Length")
		}
		f.chunked = true
	case expectHeader:
		if f.old() {
			return out, false, framingError("HTTP/1.0 has no Expect")
		}
	}
	if f.which != contentLength { // which passes when it is known to be a number
		out = append(append(out, f.held...), ':')
	}
	f.held, f.state = f.held[:0], inValue
	return out, false, nil
}

// named is which header the held name is of.
func (f *framing) named() header {
	switch {
	case bytes.EqualFold(f.held, []byte("Content-Length")):
		return contentLength
	case bytes.EqualFold(f.held, []byte("Transfer-Encoding")):
		return transferEncoding
	case bytes.EqualFold(f.held, []byte("Expect")):
		return expectHeader
	case bytes.EqualFold(f.held, []byte("Host")):
		f.host = true
	}
	return otherHeader
}

// endLine takes the line break, which was held back.
func (f *framing) endLine(out []byte) ([]byte, bool, *Rejection) {
	switch f.state {
	case between: // old clients send an empty line behind a body; net/http takes some of them
		return out, false, nil
	case lineStart:
		return f.endHeader(out)
	case requestLine:
		if v := string(f.version[:]); strings.HasPrefix(v, "HTTP/") && v != "HTTP/1.1" && v != "HTTP/1.0" {
			return out, false, &Rejection{Status: http.StatusHTTPVersionNotSupported, Reason: "http_version", Text: "HTTP/1.1 is needed"}
		}
	case inName: // without a colon: net/http answers
		out, f.held = append(out, f.held...), f.held[:0]
	case inValue:
		if f.which == contentLength {
			if f.left = parseLength(f.value); f.left < 0 {
				return out, false, framingError("Content-Length is not a number")
			}
			out = strconv.AppendInt(append(out, "Content-Length: "...), f.left, 10)
		}
	}
	f.state = lineStart
	return append(out, '\r', '\n'), false, nil
}

// old reports whether the request is of HTTP/1.0.
func (f *framing) old() bool { return string(f.version[:]) == "HTTP/1.0" }

func (f *framing) endHeader(out []byte) ([]byte, bool, *Rejection) {
	switch {
	case f.chunked && f.length:
		return out, false, framingError("Transfer-Encoding and Content-Length must not both be sent")
	case f.old() && f.first == 'P' && !f.length: // POST, PUT, PATCH
		return out, false, framingError("a body in HTTP/1.0 needs Content-Length")
	}
	next := between
	switch {
	case f.chunked:
		next = inChunkSize
	case f.left > 0:
		next = inBody
	}
	*f = framing{limit: f.limit, state: next, left: f.left, held: f.held[:0], value: f.value[:0]}
	return append(out, '\r', '\n'), true, nil
}

// close makes a request of the part of a header that passed.
func (f *framing) close(out []byte) []byte {
	switch f.state {
	case between:
		out = append(out, "GET / HTTP/1.1\r\n"...)
	case requestLine:
		if v := string(f.version[:]); !strings.HasPrefix(v, "HTTP/") {
			out = append(out, " HTTP/1.1"...)
		}
		out = append(out, '\r', '\n')
	case inLongName:
		out = append(out, ":\r\n"...)
	case inValue:
		if f.which != contentLength {
			out = append(out, '\r', '\n')
		}
	}
	if !f.host {
		out = append(out, "Host: x\r\n"...)
	}
	f.state = failed
	return append(out, "Connection: close\r\n\r\n"...)
}

func (f *framing) tooLong() *Rejection {
	if f.state <= requestLine {
		return &Rejection{Status: http.StatusRequestURITooLong, Reason: "uri_too_long",
			Text: "the request line is longer than " + strconv.Itoa(f.limit) + " bytes (gateway.max_header_bytes): send the query as a form by POST"}
	}
	return &Rejection{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "header_too_large",
		Text: "the header is longer than " + strconv.Itoa(f.limit) + " bytes (gateway.max_header_bytes) or " +
			strconv.Itoa(maxHeaderLines) + " lines"}
}

// parseLength is a Content-Length, -1 if it is none.
func parseLength(value []byte) int64 {
	value = bytes.Trim(value, " \t")
	if len(value) == 0 || len(value) > 18 {
		return -1
	}
	n := int64(0)
	for _, c := range value {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int64(c-'0')
	}
	return n
}
