package column

// checkTimes decodes a timestamp column for nothing but its errors and returns
// how many times it has.
func checkTimes(column []byte) (n int, err error) {
	var r timesReader
	if err := r.openColumn(column); err != nil {
		return 0, err
	}
	return r.n, r.drain()
}
