package conn

// chunkByte processes one byte between chunks; `done` is set at the end of the body.
// Leading zeros, extensions and trailers are allowed; everything else is an error.
func (f *framing) chunkByte(c byte) (done bool, _ error) {
	f.size++
	if f.cr != (c == '\n') {
		return false, errChunk
	}
	if c == '\r' {
		if f.state == inChunkSize && f.size == 1 {
			return false, errChunk
		}
		f.cr = true
		return false, nil
	}
	if c == '\n' {
		f.cr = false
		return f.endChunkLine(), nil
	}
	switch f.state {
	case inChunkSize:
		return false, f.chunkSizeByte(c)
	case inChunkExt:
		f.ext = f.ext || c == ';'
		if f.size > maxChunkLine || !f.ext && c != ' ' && c != '\t' {
			return false, errChunk
		}
	case trailerStart, inTrailer:
		return false, f.trailerByte(c)
	default: // chunkEnd, failed
		return false, errChunk
	}
	return false, nil
}

// trailerByte processes one byte of a trailer. Its lines must not be folded.
func (f *framing) trailerByte(c byte) error {
	if f.size > maxTrailer || f.state == trailerStart && (c == ' ' || c == '\t') {
		return errChunk
	}
	f.state = inTrailer
	return nil
}

// chunkSizeByte processes a digit of a chunk's size, or the byte that ends it.
func (f *framing) chunkSizeByte(c byte) error {
	digit := hexDigit(c)
	switch {
	case digit >= 0 && f.size <= 16 && f.left < 1<<58:
		f.left = f.left<<4 | digit
	case f.size > 1 && (c == ' ' || c == '\t' || c == ';'):
		f.state, f.ext = inChunkExt, c == ';'
	default:
		return errChunk
	}
	return nil
}

func (f *framing) endChunkLine() (done bool) {
	switch f.state {
	case inChunkSize, inChunkExt:
		f.size, f.state = 0, inChunk
		if f.left == 0 {
			f.state = trailerStart
		}
	case chunkEnd:
		f.size, f.state = 0, inChunkSize
	case inTrailer:
		f.state = trailerStart
	case trailerStart:
		f.size, f.state = 0, between
		return true
	}
	return false
}

func hexDigit(c byte) int64 {
	switch {
	case c >= '0' && c <= '9':
		return int64(c - '0')
	case c >= 'a' && c <= 'f':
		return int64(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int64(c-'A') + 10
	}
	return -1
}
