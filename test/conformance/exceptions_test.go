package conformance

import "slices"

// exception says why evals of a script fail.
type exception struct {
	file  string
	lines []int // line numbers of the evals
	// reason completes the sentence "the eval fails because".
	reason string
	// likePrometheus means that the eval also fails in Prometheus without feature flags.
	// Its result and Pallium's must then be equal.
	likePrometheus bool
}

// exceptions returns the evals that fail, for the scripts of the Prometheus version in
// go.mod. The test fails if a failing eval is missing here, or if an eval listed here
// passes.
func exceptions() []exception {
	return []exception{
		{
			file: "aggregators.test", lines: []int{1024, 1035, 1047},
			reason: "protobuf leaves out a float that equals zero, so -0 arrives as 0",
		},
		{
			file: "fill-modifier.test",
			lines: []int{15, 22, 28, 34, 41, 48, 55, 64, 68, 74, 80, 87, 94, 112, 119, 125, 131, 151, 159, 167,
				185, 191, 197, 206, 211, 216, 223, 241, 256, 263, 268, 281, 295, 300, 304, 320, 327, 333, 349,
				362, 367, 370, 375, 378, 382, 401, 411, 417, 422},
			reason: "fill modifiers are behind the flag promql-binop-fill-modifiers", likePrometheus: true,
		},
		{
			file:   "histograms.test",
			lines:  []int{1197, 1202, 1207, 1218, 1223, 1228, 1239, 1244, 1249, 1260, 1273, 1278, 1284, 1297, 1302, 1307},
			reason: "annotations name the metric only with the flag promql-delayed-name-removal", likePrometheus: true,
		},
		{
			file: "name_label_dropping.test", lines: []int{59, 64, 69, 74, 89, 115, 119, 123},
			reason: "names are dropped late only with the flag promql-delayed-name-removal", likePrometheus: true,
		},
		{
			file: "native_histograms.test",
			lines: []int{1616, 1621, 1626, 1631, 1635, 1639, 1644, 1648, 1653, 1672, 1676, 1691, 1695, 2045, 2048,
				2051, 2054},
			reason: "annotations name the metric only with the flag promql-delayed-name-removal", likePrometheus: true,
		},
		{
			file: "start_timestamps.test",
			lines: []int{8, 13, 18, 24, 29, 34, 47, 71, 79, 87, 149, 174, 194, 259, 282, 299, 326, 418, 422, 438, 441,
				444, 448, 465, 471, 477, 490, 507, 515, 520, 536},
			reason: "start timestamps count only with the flag use-start-timestamps", likePrometheus: true,
		},
		{
			file: "unquoted_utf8_names.test",
			lines: []int{13, 16, 19, 22, 26, 30, 33, 36, 39, 43, 47, 50, 53, 56, 60, 64, 68, 85, 88, 91, 94, 97, 100,
				114, 121},
			reason: "names in UTF-8 must be quoted in Prometheus", likePrometheus: true,
		},
	}
}

func exceptionOf(list []exception, file string, line int) *exception {
	i := slices.IndexFunc(list, func(e exception) bool { return e.file == file && slices.Contains(e.lines, line) })
	if i < 0 {
		return nil
	}
	return &list[i]
}
