/* F tasks that increment one number N times each, without a lock. The monitor adds F + 2 states: see ptl.pml. */
#ifndef F
#define F 2
#endif
#ifndef N
#define N 3
#endif
byte v;
byte ended;

active [F] proctype increment()
{
	byte seen, i;
	do
	:: seen = v;
	   if
	   :: atomic { i < N - 1 -> v = seen + 1; seen = 0; i++ }
	   :: atomic { i == N - 1 -> v = seen + 1; seen = 0; ended++; break }
	   fi
	od
}

active proctype monitor()
{
	atomic { ended == F -> assert(v <= F * N); v = 0 }
}
