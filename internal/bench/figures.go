package bench

import "slices"

// Median returns the middle of figures, the mean of both where there are two, and
// 0 if there are none.
func Median(figures []float64) float64 {
	n := len(figures)
	if n == 0 {
		return 0
	}
	figures = slices.Sorted(slices.Values(figures))
	return (figures[(n-1)/2] + figures[n/2]) / 2
}
