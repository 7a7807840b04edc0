package column

// checkTimes decodes a timestamp column only to check it and returns its number
// of timestamps.
func checkTimes(column []byte) (n int, err error) {
	var r timesReader
	if err := r.openColumn(column); err != nil {
		return 0, err
	}
	return r.n, r.drain()
}
