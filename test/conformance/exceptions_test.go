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
	// unlessEqual means that this is no exception if Prometheus with and without feature flags returns the
	// same result.
	unlessEqual bool
}

// exceptions returns the evals that fail, for the scripts of the Prometheus version in
// go.mod, whatever the switches of the tenant. The test fails if a failing eval is missing
// here, or if an eval listed here passes.
func exceptions() []exception {
	return []exception{
		{
			file: "aggregators.test", lines: []int{1024, 1035, 1047},
			reason: "protobuf leaves out a float that equals zero, so -0 arrives as 0",
		},
		{
			file: "start_timestamps.test",
			lines: []int{8, 13, 18, 24, 29, 34, 47, 71, 79, 87, 149, 174, 194, 259, 282, 299, 326, 418, 422, 438, 441,
				444, 448, 465, 471, 477, 490, 507, 515, 520, 536},
			reason: "start timestamps count only with the flag use-start-timestamps", likePrometheus: true,
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
