package plot

import (
	"fmt"
	"math"
)

// A scale says where on the picture a value lies.
type scale struct {
	low, high float64 // values at the ends
	from, to  float64 // pixels at the ends
	log       bool
	ticks     []float64
}

// scale fits an axis to the values of all points.
func (c Chart) scale(a Axis, from, to float64, values func(Point) []float64) (scale, error) {
	s := scale{low: math.Inf(1), high: math.Inf(-1), from: from, to: to, log: a.Log, ticks: a.Ticks}
	for _, series := range c.Series {
		for _, p := range series.Points {
			for _, v := range values(p) {
				if math.IsNaN(v) || math.IsInf(v, 0) || a.Log && v <= 0 {
					return s, fmt.Errorf("series %q: %v: %w", series.Name, v, ErrValue)
				}
				s.low, s.high = min(s.low, v), max(s.high, v)
			}
		}
	}
	if s.low > s.high {
		return s, fmt.Errorf("no points: %w", ErrValue)
	}
	if !a.Log {
		s.low = min(s.low, 0) // a length that does not begin at 0 lies
	}
	if s.low == s.high {
		// One value has no extent; it lies in the middle of some.
		s.low, s.high = s.low-1, s.high+1
		if a.Log {
			s.low, s.high = s.high/2-0.5, s.high*2
		}
	}
	if s.ticks == nil {
		s.ticks = s.choose()
		s.low, s.high = min(s.low, s.ticks[0]), max(s.high, s.ticks[len(s.ticks)-1])
	}
	if len(a.Ticks) > 0 {
		// Marked values are the axis's own; lines need not touch the frame.
		if a.Log {
			s.low, s.high = s.low/1.15, s.high*1.15
		} else {
			s.high += (s.high - s.low) * 0.03
		}
	}
	return s, nil
}

// choose returns round values that enclose the range.
func (s scale) choose() (ticks []float64) {
	if !s.log {
		step := math.Pow(10, math.Floor(math.Log10(s.high-s.low)))
		for _, m := range []float64{0.1, 0.2, 0.5, 1, 2} {
			if (s.high-s.low)/(step*m) <= 8 {
				step *= m
				break
			}
		}
		for i := math.Floor(s.low / step); ; i++ {
			ticks = append(ticks, i*step)
			if i*step >= s.high {
				return ticks
			}
		}
	}
	// One, two and five of each power of ten; over many powers, only the ones.
	steps := []float64{1, 2, 5}
	if math.Log10(s.high/s.low) > 4 {
		steps = steps[:1]
	}
	for e := math.Floor(math.Log10(s.low)); ; e++ {
		for i, m := range steps {
			next := math.Pow(10, e+1)
			if i+1 < len(steps) {
				next = steps[i+1] * math.Pow(10, e)
			}
			v := m * math.Pow(10, e)
			if next <= s.low {
				continue
			}
			ticks = append(ticks, v)
			if v >= s.high {
				return ticks
			}
		}
	}
}

// at returns the place of a value in pixels.
func (s scale) at(v float64) float64 {
	low, high := s.low, s.high
	if s.log {
		low, high, v = math.Log(low), math.Log(high), math.Log(v)
	}
	return s.from + (v-low)/(high-low)*(s.to-s.from)
}
