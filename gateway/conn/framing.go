package conn

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Rejection is the reason why a request with an invalid header is not served.
type Rejection struct {
	Status int
	Reason string        // one of a fixed set of codes, for metrics and logs
	Text   string        // for the client
	Retry  time.Duration // > 0: when the client should retry
}

func framingError(text string) *Rejection {
	return &Rejection{Status: http.StatusBadRequest, Reason: "framing", Text: text}
}

// errChunk is returned for a body whose chunks or trailer violate RFC 9112, or exceed a limit.
var errChunk = errors.New("malformed chunked encoding")

const (
	// maxHeaderLines bounds the lines of a header. net/http needs at least a hundred
	// bytes for each, however short it is.
	maxHeaderLines = 256
	// maxName is the maximum number of bytes of a header name that are held back until the name is
	// complete. The names of headers that affect framing are shorter.
	maxName = 24
	// maxValue bounds a Content-Length with surrounding white space.
	maxValue = 64
	// maxChunkLine bounds the size line of a chunk, including its extensions.
	maxChunkLine = 256
	// maxTrailer bounds the trailer of a chunked body. net/http does not read trailers
	// that are longer than its buffer.
	maxTrailer = 2 << 10
)

// framing parses the framing of the requests on a connection, more strictly than net/http: it
// accepts only lines that end in CRLF, no folded lines, and at most one Content-Length. net/http splits
// everything that is passed on into the same requests.
//
// A header is passed on line by line as it arrives. When a request is rejected, further lines are
// passed on, so that all lines form a valid request. Its handler then responds with the rejection:
// net/http alone would respond to some invalid requests itself, and accept the others.
type framing struct {
	limit int // maximum bytes of a header

	state framingState
	cr    bool // the last byte was a CR, which is held back
	size  int  // bytes of the header, or of the chunk's line or the trailer
	lines int  // of the header

	first   byte    // first byte of the request line
	version [8]byte // the last bytes of the request line
	held    []byte  // the part of a name that has arrived
	value   []byte  // the part of Content-Length's value that has arrived
	which   header  // the header that is being read

	host, length, chunked bool // present in this header

	ext bool // in an extension of a chunk

	left int64 // bytes left of the body or chunk
}

type framingState int

const (
	between      framingState = iota // requests
	requestLine                      //
	lineStart                        // of a header line
	inName                           //
	inLongName                       // the name of a header that does not affect framing
	inValue                          //
	inBody                           //
	inChunkSize                      //
	inChunkExt                       // white space or extension after the size
	inChunk                          //
	chunkEnd                         // the line break after a chunk
	trailerStart                     //
	inTrailer                        //
	failed                           // nothing more is passed on
)

// header is a header that affects where a request ends.
type header int

const (
	otherHeader header = iota
	contentLength
	transferEncoding
	expectHeader
)

// step processes bytes of in, and appends to out the bytes to pass on. It stops after a
// header and after a body, so that an invalid request is only rejected when the requests
// before it were served. `taken` is the number of processed bytes.
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

// opaque returns the number of bytes to pass on without inspection.
func (f *framing) opaque() int64 {
	if f.state == inBody || f.state == inChunk {
		return f.left
	}
	return 0
}

// passed records that n opaque bytes were passed on, and reports whether the body has
// ended.
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

// headerByte processes one byte of a header; `done` is set at its end.
func (f *framing) headerByte(c byte, out []byte) (_ []byte, done bool, _ *Rejection) {
	f.size++
	if f.size > f.limit {
		return out, false, f.tooLong()
	}
	if f.cr != (c == '\n') {
		return out, false, framingError("header lines must end with CRLF")
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
				return out, false, framingError("Content-Length is not a valid number")
			}
			f.value = append(f.value, c)
			return out, false, nil
		}
	}
	return append(out, c), false, nil
}

// beginLine processes the first byte of a header line.
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

// nameByte holds a name back until it is complete.
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
			return out, false, framingError("Transfer-Encoding is not allowed in HTTP/1.0: send Content-Length")
		}
		f.chunked = true
	case expectHeader:
		if f.old() {
			return out, false, framingError("the header Expect is not allowed in HTTP/1.0")
		}
	}
	if f.which != contentLength { // it is passed on when its value is complete and valid
		out = append(append(out, f.held...), ':')
	}
	f.held, f.state = f.held[:0], inValue
	return out, false, nil
}

// named returns the header whose name is held back.
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

// endLine processes a line break, whose CR was held back.
func (f *framing) endLine(out []byte) ([]byte, bool, *Rejection) {
	switch f.state {
	case between: // old clients send an empty line after a body; net/http accepts it in some cases
		return out, false, nil
	case lineStart:
		return f.endHeader(out)
	case requestLine:
		if v := string(f.version[:]); strings.HasPrefix(v, "HTTP/") && v != "HTTP/1.1" && v != "HTTP/1.0" {
			return out, false, &Rejection{Status: http.StatusHTTPVersionNotSupported, Reason: "http_version", Text: "the HTTP version is not " +
				"supported: use HTTP/1.1"}
		}
	case inName: // without a colon: net/http rejects it
		out, f.held = append(out, f.held...), f.held[:0]
	case inValue:
		if f.which == contentLength {
			if f.left = parseLength(f.value); f.left < 0 {
				return out, false, framingError("Content-Length is not a valid number")
			}
			out = strconv.AppendInt(append(out, "Content-Length: "...), f.left, 10)
		}
	}
	f.state = lineStart
	return append(out, '\r', '\n'), false, nil
}

// old reports whether the request has the version HTTP/1.0.
func (f *framing) old() bool { return string(f.version[:]) == "HTTP/1.0" }

func (f *framing) endHeader(out []byte) ([]byte, bool, *Rejection) {
	switch {
	case f.chunked && f.length:
		return out, false, framingError("Transfer-Encoding and Content-Length must not both be sent")
	case f.old() && f.first == 'P' && !f.length: // POST, PUT, PATCH
		return out, false, framingError("the methods POST, PUT and PATCH require Content-Length in HTTP/1.0")
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

// close completes the part of a header that was already passed on, so that it becomes a valid request.
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

// parseLength returns the value of a Content-Length, or -1 if it is invalid.
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
