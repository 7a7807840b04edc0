package rules

// Estimated sizes in bytes, and numbers of elements. If the labels of the results of a rule are larger, the ruler scales the
// cost of the rule.
const (
	// EstimatedValue is the estimated length of a label value of an alert.
	EstimatedValue = 128
	// EstimatedLabels is the estimated number of labels of an alert.
	EstimatedLabels = 32
	// EstimatedName is the estimated length of a label name.
	EstimatedName = 16
	// EstimatedNumber is the estimated length of a number as text.
	EstimatedNumber = 24
	// MaxQueryResults is the maximum number of series that a query in a template may return.
	MaxQueryResults = 100

	scalarBytes = EstimatedValue // size of other texts whose size is unknown
	labelsBytes = EstimatedLabels * (EstimatedName + EstimatedValue + 1)

	// These sizes of the results of a query are averages: not all of many results are large. The ruler limits their sum.
	resultValue  = 24
	resultLabels = 4
	resultBytes  = resultLabels * (EstimatedName + resultValue)

	// innerResults is the number of results of a query in a range. It is smaller than MaxQueryResults, because all
	// templates of all alerts of a rule may together run only 100 queries.
	innerResults = 10

	escapedFactor = 6 // factor by which escaping makes a text longer
)

// kind is the kind of a value.
type kind int

const (
	kindText   kind = iota // a text, or any other value over which a range is not possible
	kindRoot               // the dot of a template
	kindSample             // a result of a query
	kindVector             // results of a query
	kindLabels             // a map of labels
)

// value describes the possible results of a pipeline.
type value struct {
	kind   kind
	size   float64 // bytes of the value as text
	item   float64 // bytes of a label value, unless the kind is kindText
	count  float64 // number of elements of a vector or of labels
	looped bool    // whether the value depends on a variable that is assigned in a range
}

// or returns a value that covers both v and o.
func (v value) or(o value) value {
	if v.kind != o.kind {
		v.kind = kindText
	}
	return value{v.kind, max(v.size, o.size), max(v.item, o.item), max(v.count, o.count), v.looped || o.looped}
}

// element returns an element of a vector or of labels, and the key, which is the first variable of a range with two variables.
func (v value) element() (element, key value) {
	if v.kind == kindVector {
		return value{kind: kindSample, size: resultBytes + EstimatedNumber, item: v.item}, value{size: EstimatedNumber}
	}
	return value{size: v.item}, value{size: EstimatedName}
}

// field returns a field of a value. The fields of a text are arguments, because it may be the result of the function args.
func (v value) field(name string) value {
	out := value{size: v.item, looped: v.looped}
	switch {
	case v.kind == kindText:
		out.size = max(scalarBytes, v.size)
	case v.kind == kindSample && name == "Labels":
		out = value{kind: kindLabels, size: resultBytes, item: v.item, count: resultLabels, looped: v.looped}
	case name == "Labels" || name == "ExternalLabels":
		out = value{kind: kindLabels, size: labelsBytes, item: scalarBytes, count: EstimatedLabels, looped: v.looped}
	case name == "Value" && v.kind != kindLabels:
		out.size = EstimatedNumber
	}
	return out
}

// path returns the value of a chain of fields.
func (v value) path(names []string) value {
	for _, name := range names {
		v = v.field(name)
	}
	return v
}

// fieldSize returns the bytes of a label value of a result.
func (v value) fieldSize() float64 {
	if v.kind == kindSample {
		return v.item
	}
	return scalarBytes
}

// rootValue returns the dot of a template.
func rootValue() value {
	return value{kind: kindRoot, size: 2*labelsBytes + scalarBytes, item: scalarBytes}
}
