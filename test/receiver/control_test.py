"""The control API: what is asked, and a port that refuses clients."""

from receiver_case import ReceiverCase


class Control(ReceiverCase):
    options = ('--mode', 'http')

    def test_log_query(self):
        for number in range(3):
            self.receiver.post('/', b'%d' % number, {'ce-id': str(number)})
        first = self.receiver.log()[0]['seq']
        self.assertEqual(self.receiver.log(f'?since={first}&fields=id,body'),
                         [{'id': '1', 'body': '1'}, {'id': '2', 'body': '2'}])
        self.assertEqual(self.receiver.log('?accepted=0'), [])
        self.assertEqual(self.receiver.stats()['distinct_ids'], 3)

    def test_control_on_the_same_port(self):
        self.receiver.faults({'match': {'path': '.'}, 'status': 500})
        self.assertEqual(self.receiver.post('/x')[0], 500)
        self.assertEqual(self.receiver.request('GET', '/__ctl/stats')[0], 200)
        self.assertEqual(self.receiver.request('GET', '/__ctl/nonsense')[0], 404)

    def test_refused_and_back(self):
        conn = self.receiver.connect()
        self.receiver.post('/', conn=conn)
        self.receiver.state(listening=False)
        with self.assertRaises(ConnectionError):
            self.receiver.post('/', conn=conn)
        with self.assertRaises(ConnectionRefusedError):
            self.receiver.post('/')
        conn.close()
        self.receiver.state(listening=True)
        self.assertEqual(self.receiver.post('/')[0], 204)
