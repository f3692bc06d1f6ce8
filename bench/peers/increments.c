/* F tasks that increment one number N times each, without a lock: increments.pml, for Nidhugg. */
#include <pthread.h>
#include <stdatomic.h>
#ifndef F
#define F 2
#endif
#ifndef N
#define N 3
#endif

static atomic_int v;

static void *increment(void *unused)
{
	for (int i = 0; i < N; i++)
		atomic_store(&v, atomic_load(&v) + 1);
	return unused;
}

int main(void)
{
	pthread_t t[F];

	for (int i = 0; i < F; i++)
		pthread_create(&t[i], 0, increment, 0);
	for (int i = 0; i < F; i++)
		pthread_join(t[i], 0);
	return 0;
}
