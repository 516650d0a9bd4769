import { screens } from './screens.mjs'

screens('bn-BD', 'pin')
